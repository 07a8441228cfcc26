//! The BlueTrace contact-tracing system in one binary: the health authority's server, a device's client, and both at once
//! as a demonstration.
//!
//! This file is the table of contents: a command, and the file that carries it out.

mod client;
mod code;
mod command_line;
mod demo;
mod export;
mod import;
mod installation;
mod passwords;
mod runtime;
mod serve;
mod system;
mod temp_id;
mod user;

use std::process::ExitCode;

use clap::Parser as _;

use crate::command_line::{Command, CommandLine};

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    system::start_log(command_line.log_level);
    let done = match command_line.command {
        Command::Server(options) => serve::run(options).map(|()| ExitCode::SUCCESS),
        Command::Client(options) => client::run(options),
        Command::Demo(options) => demo::run(&options).map(|()| ExitCode::SUCCESS),
        Command::User(options) => user::run(options).map(|()| ExitCode::SUCCESS),
        Command::Export(options) => export::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Code(options) => code::run(options).map(|()| ExitCode::SUCCESS),
        Command::Pin(options) => code::pin(&options).map(|()| ExitCode::SUCCESS),
        Command::Tempid(options) => temp_id::run(&options),
    };
    done.unwrap_or_else(|error| {
        system::complain(&error);
        ExitCode::FAILURE
    })
}
