//! Holds many idle connections: a server that accepts and keeps, a client that opens and keeps.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};
use clap::Subcommand;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
pub enum Role {
    /// Accept and keep.
    Server { address: SocketAddr },
    /// Open, say `ready`, keep until standard input ends.
    Client {
        address: SocketAddr,
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.role {
        Role::Server { address } => {
            let listener = TcpListener::bind(address).context("listening")?;
            let mut held = Vec::new();
            loop {
                held.push(listener.accept()?.0);
            }
        }
        Role::Client {
            address,
            connections,
        } => {
            let mut held = Vec::new();
            for number in 0..connections {
                let stream = TcpStream::connect(address);
                held.push(stream.with_context(|| format!("connection {number}"))?);
            }
            println!("ready");
            std::io::stdin().read_to_end(&mut Vec::new())?;
            Ok(())
        }
    }
}
