//! The `flyover` program; everything is in the library of the same package.

fn main() -> std::process::ExitCode {
    flyover_cli::main(std::env::args_os().skip(1).collect())
}
