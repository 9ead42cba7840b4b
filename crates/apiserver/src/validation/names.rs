//! The syntaxes of names, labels and values (RFC 1123, RFC 1035, qualified names), each answered as a list of
//! problems in the server's words. Never knows which field uses which.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
    an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Longest RFC 1123 and RFC 1035 label.
const LABEL_MAX: usize = 63;
/// Longest RFC 1123 subdomain.
const SUBDOMAIN_MAX: usize = 253;

fn too_long(text: &str, limit: usize, problems: &mut Vec<String>) {
    if text.len() > limit {
        problems.push(format!("must be no more than {limit} bytes"));
    }
}

/// Starts and ends with `edge`, and has only `inner` between.
fn shaped(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|b| inner(*b)),
    }
}

const fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

const fn lower_or_dash(byte: u8) -> bool {
    lower(byte) || byte == b'-'
}

const fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

const fn name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Namespaces and port names.
pub(crate) fn dns1123_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    too_long(text, LABEL_MAX, &mut problems);
    if !shaped(text, lower, lower_or_dash) {
        problems.push(LABEL.to_owned());
    }
    problems
}

/// Names of Services.
pub(crate) fn dns1035_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    too_long(text, LABEL_MAX, &mut problems);
    if !shaped(text, lower, lower_or_dash) || !text.as_bytes()[0].is_ascii_lowercase() {
        problems.push(DNS_1035.to_owned());
    }
    problems
}

/// Names of most objects.
pub(crate) fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    too_long(text, SUBDOMAIN_MAX, &mut problems);
    if !text.split('.').all(|label| shaped(label, lower, lower_or_dash)) {
        problems.push(SUBDOMAIN.to_owned());
    }
    problems
}

/// Keys of labels and annotations: `[prefix/]name`.
pub(crate) fn qualified_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            problems.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            problems.extend(
                dns1123_subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")),
            );
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part must be no more than {LABEL_MAX} bytes"));
    }
    if !shaped(name, alphanumeric, name_byte) {
        problems.push(format!("name part {QUALIFIED_NAME}"));
    }
    problems
}

/// Values of labels.
pub(crate) fn label_value(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    too_long(text, LABEL_MAX, &mut problems);
    if !text.is_empty() && !shaped(text, alphanumeric, name_byte) {
        problems.push(LABEL_VALUE.to_owned());
    }
    problems
}

/// A named container port, as `targetPort` may refer to (IANA service name).
pub(crate) fn port_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(lower_or_dash) {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(dns1123_label("my-name").is_empty());
        assert!(dns1123_label("1a").is_empty());
        assert!(!dns1035_label("1a").is_empty());
        assert!(!dns1035_label("").is_empty());
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        assert!(!dns1123_subdomain("a..b").is_empty());
        assert!(!dns1123_label(&"a".repeat(64)).is_empty());
        assert!(dns1123_label(&"a".repeat(63)).is_empty());
    }

    #[test]
    fn labels() {
        assert!(qualified_name("app.kubernetes.io/name").is_empty());
        assert!(qualified_name("A_b.c").is_empty());
        assert!(!qualified_name("a/b/c").is_empty());
        assert!(!qualified_name("/b").is_empty());
        assert!(label_value("").is_empty());
        assert!(!label_value("-x").is_empty());
        assert!(!label_value("a b").is_empty());
    }

    #[test]
    fn ports() {
        assert!(port_name("http").is_empty());
        assert!(!port_name("80").is_empty());
        assert!(!port_name("a--b").is_empty());
        assert!(!port_name("averyveryverylongname").is_empty());
    }
}
