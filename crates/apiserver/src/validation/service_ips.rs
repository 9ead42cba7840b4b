//! ServiceCIDR and IPAddress objects (KEP-1880).

use super::{FieldErrors, address};
use crate::meta::{self, Object, items, text};

pub(super) fn cidr(object: &Object, errors: &mut FieldErrors) {
    let cidrs = items(&object["spec"], &["cidrs"]);
    if cidrs.is_empty() {
        errors.required("spec.cidrs", "at least one CIDR required");
    }
    if cidrs.len() > 2 {
        errors.invalid("spec.cidrs", cidrs.to_vec(), "may only hold up to 2 values");
    }
    let mut families = vec![];
    for (index, text) in cidrs.iter().enumerate() {
        let field = format!("spec.cidrs[{index}]");
        let text = text.as_str().unwrap_or("");
        let Some(cidr) = address::check_cidr(&field, text, errors) else { continue };
        if cidr.trunc().to_string() != text {
            errors.invalid(
                &field,
                text,
                format!("must be in canonical form ({:?})", cidr.trunc().to_string()),
            );
        }
        families.push(cidr.addr().is_ipv4());
    }
    if families.len() == 2 && families[0] == families[1] {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid("spec.cidrs", cidrs.to_vec(), detail);
    }
}

pub(super) fn cidr_update(old: &Object, object: &Object, errors: &mut FieldErrors) {
    immutable(old, object, "cidrs", errors);
}

pub(super) fn address(object: &Object, errors: &mut FieldErrors) {
    let name = meta::name(object);
    if address::ip(name).is_none_or(|ip| ip.to_string() != name) {
        errors.invalid("metadata.name", name, "must be a valid IP address in canonical form");
    }
    let parent = &object["spec"]["parentRef"];
    if meta::is_empty(parent) {
        return errors.required("spec.parentRef", "");
    }
    for field in ["resource", "name"] {
        if text(parent, &[field]).is_empty() {
            errors.required(format!("spec.parentRef.{field}"), "");
        }
    }
}

pub(super) fn address_update(old: &Object, object: &Object, errors: &mut FieldErrors) {
    immutable(old, object, "parentRef", errors);
}

fn immutable(old: &Object, object: &Object, field: &str, errors: &mut FieldErrors) {
    if old["spec"][field] != object["spec"][field] {
        errors.invalid(format!("spec.{field}"), object["spec"][field].clone(), "field is immutable");
    }
}
