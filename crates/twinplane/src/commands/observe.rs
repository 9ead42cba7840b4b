//! `twinplane observe`: flows as a node (or a relay) serves them, in Hubble's lines, and how much of them was seen.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use flow::{
    event::Time,
    print::{Colour, Coverage, Printer, Tally},
    proto::observer::{GetFlowsRequest, ServerStatusRequest, observer_client::ObserverClient},
    request::{ObserveArgs, add_answers},
};
use observer::connect;
use tonic::{Response, Status};

use super::{output::write_all, target::Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// A server that speaks Hubble's API, as ADDRESS:PORT (on this machine) or unix:///PATH
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["socket", "lab", "node"])]
    server: Option<String>,
    /// Who talked to whom most, and what was dropped, instead of lines; of all flows unless others are selected
    #[arg(long)]
    summary: bool,
    /// Filters on one end (--to-pod, --from-ip, ...) match what is sent only, as in Hubble's command, and not the answers
    #[arg(long)]
    no_answers: bool,
    #[command(flatten)]
    observe: ObserveArgs,
}

/// # Errors
/// The flags contradict each other, or the server cannot be asked.
pub(crate) fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    let select = &mut args.observe.select;
    let nothing_selected = select.first.is_none() && select.last.is_none() && select.since.is_none();
    if args.summary && nothing_selected && select.until.is_none() && !select.follow {
        select.all = true;
    }
    let mut request = args.observe.request(now())?;
    if !args.no_answers {
        add_answers(&mut request.whitelist);
    }
    let address = match &args.server {
        Some(address) => address.clone(),
        None => format!("unix://{}", args.target.observer()?.display()),
    };
    let colourful =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let auto = if colourful { Colour::Always } else { Colour::Never };
    let view = View {
        printer: Printer::new(args.observe.format.options(auto)),
        tally: args.summary.then(Tally::default),
        coverage: Coverage::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(observe(address, request, view))?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of answers.
struct View {
    printer: Printer,
    /// Instead of lines.
    tally: Option<Tally>,
    coverage: Coverage,
}

async fn observe(address: String, request: GetFlowsRequest, mut view: View) -> anyhow::Result<()> {
    let target = connect::Target { address, server_name: None };
    let channel = connect::connect(&target, None).await.context(
        "ask for flows\n\nis an ebpf agent running here? ask another node's with --socket PATH, or a lab's with --lab NAME",
    )?;
    let mut client = ObserverClient::new(channel);
    let mut answers = client.get_flows(request).await.map_err(refused)?.into_inner();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let ended = loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    view.coverage.add(&answer);
                    let text = match &mut view.tally {
                        Some(tally) => {
                            tally.add(&answer);
                            continue;
                        }
                        None => view.printer.print(&answer)?,
                    };
                    eprint!("{}", text.err);
                    if !write_all(&text.out)? {
                        return Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(status) => break Err(refused(status)),
            },
            _ = &mut interrupted => break Ok(()),
        }
    };
    let rest = view.tally.as_ref().map_or_else(|| view.printer.finish(), Tally::render);
    write_all(&rest)?;
    let status = client.server_status(ServerStatusRequest {}).await.ok().map(Response::into_inner);
    eprint!("{}", view.coverage.line(status.as_ref()));
    ended
}

/// In the words of Hubble's command.
fn refused(status: Status) -> anyhow::Error {
    anyhow::anyhow!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
