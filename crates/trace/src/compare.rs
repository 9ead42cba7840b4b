//! Whether the planes say the same in a layer: by comparing normalised captures, never by opinion.

use crate::{
    normalise::{Normaliser, Style, Vocabulary},
    report::Capture,
};

/// A capture and how its text is to be read.
#[derive(Clone, Debug)]
pub struct Exhibit {
    pub capture: Capture,
    pub style: Style,
}

/// One plane's captures of a layer, with what its cluster allocated.
#[derive(Clone, Debug, Default)]
pub struct Side {
    pub exhibits: Vec<Exhibit>,
    pub vocabulary: Vocabulary,
}

impl Side {
    fn normal(&self) -> Vec<Normal> {
        let mut normaliser = Normaliser::new(&self.vocabulary);
        self.exhibits.iter().map(|exhibit| normal(&mut normaliser, exhibit)).collect()
    }
}

/// Title, place, exit status, output.
type Normal = (String, String, i32, String);

/// What was asked and what was answered, allocation and clock set aside.
///
/// The title is what was asked: the command line names the lab, and the note is ours.
fn normal(normaliser: &mut Normaliser<'_>, exhibit: &Exhibit) -> Normal {
    let Capture { title, r#where, exit, output, .. } = &exhibit.capture;
    let place = normaliser.text(r#where, Style::Plain);
    (title.clone(), place, *exit, normaliser.text(output, exhibit.style))
}

/// Says of each capture whether the other plane, asked the same, said the same. In order: what was skipped is not gone back to.
pub fn mark(left: &mut Side, right: &mut Side) {
    let mut rest = &mut right.exhibits[..];
    for ours in &mut left.exhibits {
        let same_title = |theirs: &Exhibit| theirs.capture.title == ours.capture.title;
        let Some(at) = rest.iter().position(same_title) else { continue };
        let [theirs, after @ ..] = &mut rest[at..] else { break };
        let said = normal(&mut Normaliser::new(&left.vocabulary), ours);
        let identical = said == normal(&mut Normaliser::new(&right.vocabulary), theirs);
        (ours.capture.identical, theirs.capture.identical) = (identical, identical);
        rest = after;
    }
}

/// Both sides asked the same and were answered the same. Nothing captured is no agreement.
pub fn identical(left: &Side, right: &Side) -> bool {
    !left.exhibits.is_empty() && left.normal() == right.normal()
}

#[cfg(test)]
mod tests {
    use model::Plane;

    use super::*;
    use crate::normalise::Role;

    fn side(plane: Plane, address: &str, output: &str, exit: i32) -> Side {
        let mut vocabulary = Vocabulary::default();
        vocabulary.learn(address, Role::ClusterIp);
        let capture = Capture {
            dataplane: plane,
            title: "the Service".into(),
            r#where: "host".into(),
            command: format!("kubectl --lab {plane} get svc"),
            exit,
            output: output.into(),
            note: format!("{plane} has a word to say"),
            identical: false,
        };
        Side { exhibits: vec![Exhibit { capture, style: Style::Kubectl }], vocabulary }
    }

    #[test]
    fn only_allocation_may_differ() {
        let left = side(Plane::Iptables, "10.24.0.9", "nginx 10.24.0.9 80/TCP 5s", 0);
        let same = side(Plane::Ebpf, "10.24.3.7", "nginx   10.24.3.7   80/TCP  12s", 0);
        assert!(identical(&left, &same));
        assert!(!identical(&left, &side(Plane::Ebpf, "10.24.3.7", "nginx 10.24.3.7 81/TCP 12s", 0)));
        assert!(!identical(&left, &side(Plane::Ebpf, "10.24.3.7", "nginx 10.24.3.8 80/TCP 12s", 0)));
        assert!(!identical(&left, &side(Plane::Ebpf, "10.24.3.7", "nginx 10.24.3.7 80/TCP 12s", 1)));
    }

    #[test]
    fn each_capture_is_marked_by_what_the_other_plane_said_to_the_same() {
        let mut left = side(Plane::Iptables, "10.24.0.9", "nginx 10.24.0.9", 0);
        let mut right = side(Plane::Ebpf, "10.24.3.7", "nginx 10.24.3.7", 0);
        let add = |side: &mut Side, title: &str, output: &str| {
            let mut exhibit = side.exhibits[0].clone();
            (exhibit.capture.title, exhibit.capture.output) = (title.into(), output.into());
            side.exhibits.push(exhibit);
        };
        add(&mut left, "only here", "x");
        add(&mut left, "a request", "200");
        add(&mut right, "a request", "timed out");
        add(&mut left, "once more", "200");
        add(&mut right, "once more", "200");
        mark(&mut left, &mut right);
        let marks = |side: &Side| side.exhibits.iter().map(|e| e.capture.identical).collect::<Vec<_>>();
        assert_eq!(marks(&left), [true, false, false, true]);
        assert_eq!(marks(&right), [true, false, true]);
        assert!(!identical(&left, &right));
    }

    #[test]
    fn a_missing_capture_is_a_difference_and_no_capture_is_no_agreement() {
        let mut left = side(Plane::Iptables, "10.24.0.9", "x", 0);
        let right = side(Plane::Ebpf, "10.24.0.9", "x", 0);
        left.exhibits.push(left.exhibits[0].clone());
        assert!(!identical(&left, &right));
        assert!(!identical(&Side::default(), &Side::default()));
    }
}
