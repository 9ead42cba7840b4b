//! `twinplane observe`: flows as a node (or a relay) serves them, in Hubble's lines, and how much of them was seen; and what
//! servers of flows say of themselves.

mod ask;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use flow::{
    event::Time,
    print::{Colour, Coverage, Printer, Tally},
    proto::observer::{GetFlowsRequest, ServerStatusRequest, observer_client::ObserverClient},
    request::{ObserveArgs, add_answers},
};
use tonic::{Response, Status, transport::Channel};

use super::{output::write_all, server::Server};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    about: Option<ask::Command>,
    #[command(flatten)]
    server: Server,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(command) = &args.about {
        return runtime.block_on(ask::run(command));
    }
    let select = &mut args.observe.select;
    let nothing_selected = select.first.is_none() && select.last.is_none() && select.since.is_none();
    if args.summary && nothing_selected && select.until.is_none() && !select.follow {
        select.all = true;
    }
    let mut request = args.observe.request(now())?;
    if !args.no_answers {
        add_answers(&mut request.whitelist);
    }
    let colourful =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let auto = if colourful { Colour::Always } else { Colour::Never };
    let view = View {
        printer: Printer::new(args.observe.format.options(auto)),
        tally: args.summary.then(Tally::default),
        coverage: Coverage::default(),
    };
    runtime.block_on(async { observe(args.server.connect().await?.0, request, view).await })?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of answers.
struct View {
    printer: Printer,
    /// Instead of lines.
    tally: Option<Tally>,
    coverage: Coverage,
}

async fn observe(channel: Channel, request: GetFlowsRequest, mut view: View) -> anyhow::Result<()> {
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
