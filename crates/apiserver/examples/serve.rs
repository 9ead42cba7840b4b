//! Serves an empty cluster's API on a loopback port and says which, until the process is ended.

use apiserver::{ApiServer, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ApiServer::new(Config::new(vec!["10.24.0.0/20".parse()?]))?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    let ctrl_c = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("listen for an interrupt: {error}");
        }
    };
    server.serve(listener, ctrl_c).await?;
    Ok(())
}
