//! The policy file exactly as written: which fields there are and what shape they have.
//!
//! Values stay text with a place, and what is required is optional here, so that `parse` can
//! report everything that is wrong at once. Only what makes the rest unreadable (YAML that is
//! none, an unknown field, a list where a map is due) ends the reading.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_saphyr::{
    Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy},
};

/// Deepest nesting of lists and maps; a policy needs 7.
pub const MAX_DEPTH: usize = 32;
/// Most lists, maps and scalars. A rule of every field takes 16, and 65,000 rules are the most.
pub const MAX_NODES: usize = 1 << 21;
/// Most nodes that aliases (`*name`) may add; a shared list of paths takes a few hundred.
pub const MAX_ALIASED: usize = 1 << 16;

/// Text with the place it was read from.
pub type Text = Spanned<String>;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Document {
    #[serde(default, deserialize_with = "present")]
    pub api_version: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub kind: Option<Text>,
    #[serde(default)]
    pub metadata: Option<Metadata>,
    #[serde(default)]
    pub spec: Option<Spec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[serde(default, deserialize_with = "present")]
    pub mode: Option<Text>,
    pub selector: Option<Selector>,
    pub egress: Option<Section<EgressRule>>,
    pub exec: Option<Section<ExecRule>>,
    pub files: Option<Section<FileRule>>,
    pub listen: Option<Section<ListenRule>>,
    pub unix: Option<Section<UnixRule>>,
    pub system: Option<Section<SystemRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    pub cgroups: Option<Vec<Text>>,
    pub units: Option<Vec<Text>>,
    pub containers: Option<Vec<Text>>,
    pub container_names: Option<Vec<Text>>,
    pub images: Option<Vec<Text>>,
    pub namespaces: Option<Vec<Text>>,
    pub pods: Option<Vec<Text>>,
    pub labels: Option<BTreeMap<String, Text>>,
    pub service_accounts: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section<R> {
    #[serde(default, deserialize_with = "present")]
    pub default: Option<Text>,
    /// Nothing behind `rules:` is no rules: all of them may be commented out.
    pub rules: Option<Vec<Spanned<R>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressRule {
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub effect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub class: Option<Text>,
    pub to: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRule {
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub effect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub class: Option<Text>,
    pub paths: Option<Vec<Text>>,
    #[serde(default, deserialize_with = "present")]
    pub pin: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub effect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub class: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub access: Option<Spanned<Vec<Text>>>,
    pub paths: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenRule {
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub effect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub class: Option<Text>,
    pub on: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnixRule {
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub effect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub class: Option<Text>,
    pub paths: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemRule {
    #[serde(default, deserialize_with = "present")]
    pub name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub effect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub class: Option<Text>,
    pub operations: Option<Vec<Text>>,
}

/// Reads a field that may be left out but, once written, must have a value: `mode:` with nothing
/// behind it is a mistake, not the default.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Reads the YAML.
///
/// # Errors
/// Whatever makes the text no policy file in shape, with the place.
pub fn read(text: &str) -> Result<Document, serde_saphyr::Error> {
    read_as(text)
}

/// The same into any form.
pub(super) fn read_as<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED },
        duplicate_keys: DuplicateKeyPolicy::Error,
        // What a rule says should stand where the rule stands.
        merge_keys: MergeKeyPolicy::Error,
        emit_comments: false,
        reject_unsupported_tags: true,
        // Base64 would hide from a reader what a rule says.
        ignore_binary_tag_for_string: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}
