//! Runs system tools inside namespaces and turns what they say into errors.

use std::{
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

use model::Family;
use netns::NetNs;

/// A tool that could not be run or refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("run {tool} in {place}")]
    Run {
        tool: String,
        place: String,
        #[source]
        source: io::Error,
    },
    /// `line` is the input line it stumbled over, where it named one.
    #[error("{tool} in {place} refused {line:?}: {message}")]
    Refused { tool: String, place: String, line: String, message: String },
}

/// Runs `ip -batch` with `text` inside `namespace`. Nothing is run for an empty text.
///
/// # Errors
/// The first line that `ip` refuses; those before it have taken effect.
pub fn ip_batch(namespace: &NetNs, text: &str) -> Result<(), Error> {
    feed(namespace, "ip", &["-batch", "-"], text)
}

/// Replaces the namespace's filter table of one family by `text`.
///
/// # Errors
/// `iptables-restore` refuses; nothing has changed then.
pub fn iptables_restore(namespace: &NetNs, family: Family, text: &str) -> Result<(), Error> {
    let tool = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    feed(namespace, tool, &["--wait"], text)
}

/// Sets `net.ipv4.ip_forward=1` and the like.
///
/// # Errors
/// The kernel lacks the key or refuses the value.
pub fn sysctl(namespace: &NetNs, key: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    let failed = |source| Error::Run {
        tool: format!("sysctl {key}={value}"),
        place: namespace.name().to_owned(),
        source,
    };
    namespace.run(|| std::fs::write(path, value)).map_err(|error| failed(error.source))?.map_err(failed)
}

/// Runs `tool` inside `namespace` and returns what it prints.
///
/// # Errors
/// It cannot be run, or fails.
pub fn output(namespace: &NetNs, tool: &str, arguments: &[&str]) -> Result<String, Error> {
    let place = || namespace.name().to_owned();
    let output = namespace
        .command(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Run { tool: tool.to_owned(), place: place(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Refused {
        tool: tool.to_owned(),
        place: place(),
        line: arguments.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Where `tool` is, as the shell finds it.
pub fn find(tool: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.is_file())
}

fn feed(namespace: &NetNs, tool: &str, arguments: &[&str], input: &str) -> Result<(), Error> {
    if input.is_empty() {
        return Ok(());
    }
    let mut command = namespace.command(tool);
    command.args(arguments);
    let output = with_input(command, input).map_err(|source| Error::Run {
        tool: tool.to_owned(),
        place: namespace.name().to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Refused {
        tool: tool.to_owned(),
        place: namespace.name().to_owned(),
        line: blamed_line(&message, input).unwrap_or_default().to_owned(),
        message,
    })
}

fn with_input(mut command: Command, input: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().expect("piped above");
    // A tool that gave up early says why on stderr; the broken pipe adds nothing.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    match written {
        Err(error) if output.status.success() => Err(error),
        _ => Ok(output),
    }
}

/// The input line that `ip` ("Command failed -:3") or `iptables-restore` ("line: 3", "line 3 failed") names.
fn blamed_line<'a>(message: &str, input: &'a str) -> Option<&'a str> {
    let number = ["Command failed -:", "line: ", "line "].iter().find_map(|lead| {
        let rest = &message[message.find(lead)? + lead.len()..];
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<usize>().ok()
    })?;
    input.lines().nth(number.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blamed_line_is_found_in_what_the_tools_say() {
        let input = "first\nsecond\nthird\n";
        for message in [
            "RTNETLINK answers: File exists\nCommand failed -:2",
            "iptables-restore v1.8.9 (nf_tables): \nline 2: CHAIN_ADD failed",
            "iptables-restore: line 2 failed",
            "Error occurred at line: 2",
        ] {
            assert_eq!(blamed_line(message, input), Some("second"), "{message}");
        }
        assert_eq!(blamed_line("no idea", input), None);
    }
}
