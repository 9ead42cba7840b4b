//! Query parameters as clients send them, sloppy ones included. Never fails on a parameter it does not know.

use std::collections::HashMap;

use axum::extract::Query as Parameters;
use http::Uri;
use serde_json::{Value, json};

use crate::{
    ops::{FieldValidation, WriteOptions},
    resource::Resource,
    select::{FieldSelector, Filter, LabelSelector},
    status::ApiError,
};

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        // Pairs and not a map: a repeated parameter is no error.
        let pairs = Parameters::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::BadRequest(format!("invalid query: {error}")))?;
        Ok(Self(pairs.0.into_iter().collect()))
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1" | "True")
    }

    fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::BadRequest(format!("strconv.ParseInt: parsing {text:?}: invalid syntax ({name})"))
            }),
        }
    }

    /// Selection of a list, watch or collection delete.
    pub(crate) fn filter(&self, resource: &Resource, namespace: Option<&str>) -> Result<Filter, ApiError> {
        Ok(Filter {
            namespace: namespace.map(str::to_owned),
            labels: LabelSelector::parse(self.text("labelSelector"))?,
            fields: FieldSelector::parse(self.text("fieldSelector"), resource)?,
        })
    }

    /// The version a watch starts at; 0 and none mean "whatever there is".
    pub(crate) fn resource_version(&self) -> Result<u64, ApiError> {
        let text = self.text("resourceVersion");
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| {
            ApiError::BadRequest(format!("Invalid value: {text:?}: resourceVersion is not a number"))
        })
    }

    pub(crate) fn timeout_seconds(&self) -> Result<Option<u64>, ApiError> {
        self.number("timeoutSeconds")
    }

    /// dryRun, fieldManager and fieldValidation.
    pub(crate) fn write_options(&self, default_manager: &str) -> Result<WriteOptions, ApiError> {
        Ok(WriteOptions {
            dry_run: match self.text("dryRun") {
                "" => false,
                "All" => true,
                other => {
                    return Err(ApiError::BadRequest(format!(
                        "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                    )));
                }
            },
            force: false,
            manager: match self.text("fieldManager") {
                "" => default_manager.to_owned(),
                manager => manager.to_owned(),
            },
            validation: match self.text("fieldValidation") {
                "Ignore" => FieldValidation::Ignore,
                "" | "Warn" => FieldValidation::Warn,
                "Strict" => FieldValidation::Strict,
                other => {
                    return Err(ApiError::BadRequest(format!(
                        "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                    )));
                }
            },
        })
    }

    /// The parameters of a DELETE in the form of its body.
    pub(crate) fn delete_options(&self) -> Result<Value, ApiError> {
        let mut options = json!({});
        if let Some(grace) = self.number("gracePeriodSeconds")? {
            options["gracePeriodSeconds"] = grace.into();
        }
        if !self.text("propagationPolicy").is_empty() {
            options["propagationPolicy"] = self.text("propagationPolicy").into();
        }
        if !self.text("dryRun").is_empty() {
            options["dryRun"] = json!([self.text("dryRun")]);
        }
        Ok(options)
    }
}
