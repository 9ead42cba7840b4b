//! Field errors as the real server words them. Never decides what is wrong.

use std::fmt;

use serde_json::{Value, json};

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Required,
    Invalid(Value),
    Unsupported(Value, Vec<String>),
    Duplicate(Value),
    Forbidden,
    TooLong(usize),
    TooMany(usize, usize),
}

#[derive(Debug, Clone, PartialEq)]
struct FieldError {
    field: String,
    kind: Kind,
    detail: String,
}

/// All that is wrong with an object, in the order it was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn required(&mut self, field: impl fmt::Display, detail: impl Into<String>) {
        self.push(field, Kind::Required, detail);
    }

    pub(crate) fn invalid(
        &mut self,
        field: impl fmt::Display,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(field, Kind::Invalid(value.into()), detail);
    }

    pub(crate) fn unsupported(
        &mut self,
        field: impl fmt::Display,
        value: impl Into<Value>,
        supported: &[&str],
    ) {
        let supported = supported.iter().map(|text| (*text).to_owned()).collect();
        self.push(field, Kind::Unsupported(value.into(), supported), "");
    }

    pub(crate) fn duplicate(&mut self, field: impl fmt::Display, value: impl Into<Value>) {
        self.push(field, Kind::Duplicate(value.into()), "");
    }

    pub(crate) fn forbidden(&mut self, field: impl fmt::Display, detail: impl Into<String>) {
        self.push(field, Kind::Forbidden, detail);
    }

    pub(crate) fn too_long(&mut self, field: impl fmt::Display, limit: usize) {
        self.push(field, Kind::TooLong(limit), "");
    }

    pub(crate) fn too_many(&mut self, field: impl fmt::Display, count: usize, limit: usize) {
        self.push(field, Kind::TooMany(count, limit), "");
    }

    fn push(&mut self, field: impl fmt::Display, kind: Kind, detail: impl Into<String>) {
        self.0.push(FieldError { field: field.to_string(), kind, detail: detail.into() });
    }

    /// The `details.causes` of a Status.
    pub(crate) fn causes(&self) -> Value {
        self.0
            .iter()
            .map(
                |error| json!({"reason": error.kind.reason(), "message": error.body(), "field": error.field}),
            )
            .collect()
    }
}

impl Kind {
    fn reason(&self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid(_) => "FieldValueInvalid",
            Self::Unsupported(..) => "FieldValueNotSupported",
            Self::Duplicate(_) => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong(_) => "FieldValueTooLong",
            Self::TooMany(..) => "FieldValueTooMany",
        }
    }
}

impl FieldError {
    fn body(&self) -> String {
        let body = match &self.kind {
            Kind::Required => "Required value".to_owned(),
            Kind::Invalid(value) => format!("Invalid value: {value}"),
            Kind::Unsupported(value, supported) => {
                let supported: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
                format!("Unsupported value: {value}: supported values: {}", supported.join(", "))
            }
            Kind::Duplicate(value) => format!("Duplicate value: {value}"),
            Kind::Forbidden => "Forbidden".to_owned(),
            Kind::TooLong(limit) => format!("Too long: may not be more than {limit} bytes"),
            Kind::TooMany(count, limit) => format!("Too many: {count}: must have at most {limit} items"),
        };
        if self.detail.is_empty() { body } else { format!("{body}: {}", self.detail) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => one.fmt(f),
            many => {
                f.write_str("[")?;
                for (index, error) in many.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    error.fmt(f)?;
                }
                f.write_str("]")
            }
        }
    }
}
