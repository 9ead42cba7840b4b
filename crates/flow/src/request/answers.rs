//! Filters about connections. Hubble's are about packets: who asks for flows to a pod is not shown what the pod answers, which
//! its lines print as the same flow, with the arrow turned round. Never takes anything away.

use std::mem::swap;

use crate::proto::flow::FlowFilter;

/// Adds, to what is asked for with one end named, the answers.
pub fn add_answers(whitelist: &mut Vec<FlowFilter>) {
    let answers: Vec<_> = whitelist.iter().filter_map(|filter| answers_to(filter, whitelist)).collect();
    whitelist.extend(answers);
}

/// `None` where they are in the list already, or the filter itself says which direction is meant.
fn answers_to(filter: &FlowFilter, known: &[FlowFilter]) -> Option<FlowFilter> {
    // What a source is masqueraded as has no counterpart.
    if !filter.reply.is_empty() || !filter.source_ip_xlated.is_empty() {
        return None;
    }
    let mut turned = filter.clone();
    swap(&mut turned.source_ip, &mut turned.destination_ip);
    swap(&mut turned.source_pod, &mut turned.destination_pod);
    swap(&mut turned.source_fqdn, &mut turned.destination_fqdn);
    swap(&mut turned.source_label, &mut turned.destination_label);
    swap(&mut turned.source_service, &mut turned.destination_service);
    swap(&mut turned.source_workload, &mut turned.destination_workload);
    swap(&mut turned.source_cluster_name, &mut turned.destination_cluster_name);
    swap(&mut turned.source_port, &mut turned.destination_port);
    swap(&mut turned.source_identity, &mut turned.destination_identity);
    // One that names no end is its own counterpart.
    (!known.contains(&turned)).then(|| FlowFilter { reply: vec![true], ..turned })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_answers(filters: &[FlowFilter]) -> Vec<FlowFilter> {
        let mut list = filters.to_vec();
        add_answers(&mut list);
        list
    }

    #[test]
    fn answers_come_from_where_the_questions_went() {
        let filter = FlowFilter {
            source_identity: vec![2],
            destination_pod: vec!["shop/web".into()],
            destination_port: vec!["80".into()],
            protocol: vec!["tcp".into()],
            ..FlowFilter::default()
        };
        let answers = FlowFilter {
            destination_identity: vec![2],
            source_pod: vec!["shop/web".into()],
            source_port: vec!["80".into()],
            protocol: vec!["tcp".into()],
            reply: vec![true],
            ..FlowFilter::default()
        };
        assert_eq!(with_answers(std::slice::from_ref(&filter)), [filter, answers]);
    }

    #[test]
    fn what_is_about_either_end_or_none_stays_as_it_is() {
        let source = FlowFilter { source_pod: vec!["shop/web".into()], ..FlowFilter::default() };
        let destination = FlowFilter { destination_pod: vec!["shop/web".into()], ..FlowFilter::default() };
        let replies = FlowFilter { reply: vec![false], ..source.clone() };
        let masqueraded = FlowFilter { source_ip_xlated: vec!["192.0.2.1".into()], ..source.clone() };
        let dropped = FlowFilter { verdict: vec![2], ..FlowFilter::default() };
        for list in [vec![source, destination], vec![replies], vec![masqueraded], vec![dropped], vec![]] {
            assert_eq!(with_answers(&list), list);
        }
    }
}
