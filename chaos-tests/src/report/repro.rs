//! The script that makes a run again.

use std::path::Path;

use crate::run::{Made, Run};

/// What `chaos` is asked for to make a run again, from the directory that holds it.
pub fn replay(made: &Made) -> String {
    match made {
        Made::Real { server, .. } => format!("replay --bin {} plan.json", quoted(server)),
        Made::Simulated => "replay plan.json".into(),
    }
}

/// The script.
pub fn script(run: &Run) -> String {
    let what = run.plan.name.replace(char::is_control, " ");
    let how = match &run.made {
        Made::Real { version, .. } => format!(
            "# The server said of itself: {}\n\
             # Real processes do not do the same twice: the plan is the same, the interleaving is not. Try it some times.\n",
            version.replace(char::is_control, " ")
        ),
        Made::Simulated => "# In simulation the same plan makes the same run.\n".into(),
    };
    format!(
        "#!/bin/sh\n\
         # Makes this run again: {what} (seed {seed}).\n\
         {how}\
         # CHAOS names the program if it is not on the path. To judge again what is here: chaos check .\n\
         set -eu\n\
         cd \"$(dirname \"$0\")\"\n\
         exec \"${{CHAOS:-chaos}}\" {replay} \"$@\"\n",
        seed = run.plan.seed,
        replay = replay(&run.made)
    )
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn the_script_replays_the_plan_with_the_server_that_was_judged() {
        let mut run = example::on_disk(tempfile::tempdir().unwrap().path());
        run.plan.name = "two\nlines".into();
        let script = script(&run);
        assert!(script.ends_with(
            "\"${CHAOS:-chaos}\" replay --bin 'target/release/batond' plan.json \"$@\"\n"
        ));
        assert!(
            script.lines().all(|line| !line.starts_with("lines")),
            "{script}"
        );
    }

    #[test]
    fn a_path_stays_one_word() {
        assert_eq!(quoted(Path::new("a b/it's")), r"'a b/it'\''s'");
    }
}
