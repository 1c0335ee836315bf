//! A file of expectations as written.

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::policy::schema::{Text, present};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Document {
    #[serde(default, deserialize_with = "present")]
    pub api_version: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub kind: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub policy: Option<Text>,
    #[serde(default)]
    pub cases: Option<Vec<Spanned<Case>>>,
}

/// One question, and what is expected.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    #[serde(default, deserialize_with = "present")]
    pub open: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub access: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub exec: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub connect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub listen: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub unix: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub operation: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub expect: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub rule: Option<Text>,
}
