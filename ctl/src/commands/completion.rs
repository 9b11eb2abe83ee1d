//! Completion scripts.

use clap::Args;
use clap_complete::Shell;

use crate::failure::Result;
use crate::output;

/// Print a script that completes batonctl's commands and flags
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  batonctl completion bash > /etc/bash_completion.d/batonctl
  batonctl completion zsh > \"${fpath[1]}/_batonctl\"
  batonctl completion fish > ~/.config/fish/completions/batonctl.fish
  batonctl completion powershell >> $PROFILE")]
pub struct Completion {
    /// For which shell
    shell: Shell,
}

impl Completion {
    pub fn run(self, mut command: clap::Command) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "batonctl", &mut script);
        output::print(script)
    }
}
