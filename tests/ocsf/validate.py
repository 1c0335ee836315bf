#!/usr/bin/env python3
"""Checks OCSF JSON Lines against the published schema.

    validate.py FILE

Needs `ocsf-json-schema` and `jsonschema` from PyPI. Every line must be one JSON object without
duplicate keys that its class's schema accepts, with the profiles that it names; a caption beside a
number must be the one that the schema gives to the number, and each event must have its own uid.
Exit status: 0 where all is well and there is at least one event; 1 with an error a line otherwise.
"""

import functools
import json
import sys

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.8.0"
OTHER = 99

PUBLISHED = get_ocsf_schema(VERSION)
SCHEMA = OcsfJsonSchemaEmbedded(PUBLISHED)


def unique(pairs):
    """A JSON object, refused where a key comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key comes twice in {[key for key, _ in pairs]}")
    return found


@functools.cache
def validator(class_name, profiles):
    schema = SCHEMA.get_class_schema(class_name, list(profiles))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def captions(attributes, value, path):
    """Numbers whose caption beside them is not theirs, here and below."""
    if isinstance(value, list):
        for index, element in enumerate(value):
            yield from captions(attributes, element, f"{path}[{index}]")
    if not isinstance(value, dict):
        return
    for key, below in value.items():
        attribute = attributes.get(key)
        if attribute is None:
            continue
        if "@deprecated" in attribute:
            yield f"{path}.{key}: deprecated by the schema"
        enum = attribute.get("enum")
        sibling = attribute.get("sibling")
        if enum and sibling in value and below != OTHER:
            caption = enum.get(str(below), {}).get("caption")
            if value[sibling] != caption:
                yield f"{path}.{sibling}: {value[sibling]!r}, but {key} {below} is {caption!r}"
        if attribute.get("type") == "object_t":
            deeper = PUBLISHED["objects"][attribute["object_type"]]["attributes"]
            yield from captions(deeper, below, f"{path}.{key}")


def errors(event, seen):
    """What is wrong with one event."""
    class_uid = event.get("class_uid")
    metadata = event.get("metadata", {})
    if metadata.get("version") != VERSION:
        yield f"metadata.version: {metadata.get('version')!r}, not {VERSION!r}"
    try:
        name = SCHEMA.lookup_class_name_from_uid(class_uid)
    except ValueError as error:
        yield f"class_uid: {error}"
        return
    definition = PUBLISHED["classes"][name]
    profiles = tuple(metadata.get("profiles", ()))
    for profile in profiles:
        if profile not in definition["profiles"]:
            yield f"metadata.profiles: {name} has no profile {profile!r}"
    for error in validator(name, profiles).iter_errors(event):
        yield f"{error.json_path}: {error.message[:300]}"
    yield from captions(definition["attributes"], event, "$")
    if event.get("class_name") != definition["caption"]:
        yield f"class_name: {event.get('class_name')!r}, not {definition['caption']!r}"
    if event.get("type_uid") != class_uid * 100 + event.get("activity_id", -1):
        yield f"type_uid: {event.get('type_uid')} is not class_uid * 100 + activity_id"
    uid = metadata.get("uid")
    if uid is None or uid in seen:
        yield f"metadata.uid: {uid!r} is not unique"
    seen.add(uid)


def main(path):
    count, failed, seen = 0, 0, set()
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            count += 1
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("the line has no end")
                event = json.loads(line.decode("utf-8"), object_pairs_hook=unique)
                found = list(errors(event, seen))
            except ValueError as error:
                found = [str(error)]
            for error in found:
                failed += 1
                print(f"{path}:{number}: {error}", file=sys.stderr)
    if count == 0:
        failed = 1
        print(f"{path}: no events", file=sys.stderr)
    print(f"{count} events, {failed} errors")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
