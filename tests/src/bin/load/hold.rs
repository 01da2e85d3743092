//! Holds many idle connections: a server that accepts and keeps, a client that opens and keeps.

use std::io::{BufRead as _, Write as _};
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
    /// Open, say `ready`, keep until standard input ends; a number there is how many more to open.
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
            open(address, connections, &mut held)?;
            for line in std::io::stdin().lock().lines() {
                open(address, line?.trim().parse()?, &mut held)?;
            }
            Ok(())
        }
    }
}

fn open(address: SocketAddr, more: usize, held: &mut Vec<TcpStream>) -> Result<()> {
    for _ in 0..more {
        let stream = TcpStream::connect(address);
        held.push(stream.with_context(|| format!("connection {}", held.len()))?);
    }
    println!("ready");
    std::io::stdout().flush()?;
    Ok(())
}
