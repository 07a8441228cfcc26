//! The BlueTrace contact-tracing system in one binary: the health authority's server, a device's client, and both at once
//! as a demonstration.
//!
//! This file is the table of contents: a command, and the file that carries it out.

mod client;
mod code;
mod command_line;
mod config;
mod demo;
mod doctor;
mod export;
mod import;
mod installation;
mod keys;
mod load;
mod meant;
mod passwords;
mod registration;
mod runtime;
mod serve;
mod store;
mod system;
mod temp_id;
mod user;

use std::process::ExitCode;

use tracing::warn;

use crate::command_line::Command;
use crate::config::{Configuration, Environment, Typed};

fn main() -> ExitCode {
    let typed = Typed::read();
    let command_line = typed.command_line();
    system::start_log(command_line.log_level);
    let done = match (typed.settle(&Environment(system::variables())), command_line.command) {
        (Ok((command_line, configuration)), _) => run(command_line.command, configuration),
        // what cannot be configured can be examined
        (Err(error), Command::Doctor(options)) => doctor::run(&options, &Err(error)),
        (Err(error), _) => Err(error),
    };
    done.unwrap_or_else(|error| {
        system::complain(&error);
        ExitCode::FAILURE
    })
}

fn run(command: Command, configuration: Configuration) -> anyhow::Result<ExitCode> {
    if !matches!(command, Command::Config(_) | Command::Doctor(_)) {
        configuration.doubts.iter().for_each(|doubt| warn!("{doubt}"));
    }
    match command {
        Command::Server(options) => serve::run(options).map(|()| ExitCode::SUCCESS),
        Command::Client(options) => client::run(options),
        Command::Demo(options) => demo::run(&options).map(|()| ExitCode::SUCCESS),
        Command::User(options) => user::run(options).map(|()| ExitCode::SUCCESS),
        Command::Export(options) => export::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Keys(options) => keys::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Code(options) => code::run(options).map(|()| ExitCode::SUCCESS),
        Command::Pin(options) => code::pin(&options).map(|()| ExitCode::SUCCESS),
        Command::Store(options) => store::run(&options),
        Command::Load(options) => load::run(options),
        Command::Tempid(options) => temp_id::run(&options),
        Command::Config(options) => config::run(&options, &configuration).map(|()| ExitCode::SUCCESS),
        Command::Doctor(options) => doctor::run(&options, &Ok(configuration)),
    }
}
