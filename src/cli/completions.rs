//! `completions SHELL`: what a shell needs to complete our words.

use clap_complete::{Shell, generate};

use super::{Ended, command, to_stdout, words};

/// Prints the completions of `shell`.
pub(super) fn run(shell: Shell) -> Ended {
    // Into memory first: the library panics when its writer fails.
    let mut script = Vec::new();
    generate(shell, &mut command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = if shell == Shell::Fish { for_fish(&script) } else { script.into_owned() };
    to_stdout(&script, Ended::Well)
}

/// What the library leaves out for fish: the values of words that are no flags, so those of `explain NAME`; and flags with a
/// dot in their names, which the builtin `argparse`, by which it looks for the subcommand, refuses.
fn for_fish(script: &str) -> String {
    let begin = script.find("# Print an optspec for argparse");
    let end = script.find(&format!("function __fish_{NAME}_using_subcommand"));
    let mut out = String::new();
    match (begin, end) {
        (Some(begin), Some(end)) if begin < end => {
            out.push_str(&script[..begin]);
            out.push_str(&needs_command());
            out.push_str(&script[end..]);
        }
        _ => out.push_str(script),
    }
    let words: Vec<String> = words::FINDINGS.all().collect();
    let condition = format!("__fish_{NAME}_using_subcommand explain");
    out + &format!("complete -c {NAME} -n \"{condition}\" -f -a \"{}\"\n", words.join(" "))
}

/// Prints the subcommand and fails when there is one already.
fn needs_command() -> String {
    let command = command();
    let with_value = command.get_arguments().filter(|arg| arg.get_action().takes_values());
    let with_value: Vec<String> =
        with_value.filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect();
    format!(
        "function __fish_{NAME}_needs_command
    set -l cmd (commandline -opc)
    set -e cmd[1]
    set -l value 0
    for word in $cmd
        if test $value -eq 1
            set value 0
        else if contains -- $word {}
            set value 1
        else if not string match -q -- '-*' $word
            echo $word
            return 1
        end
    end
    return 0
end

",
        with_value.join(" ")
    )
}

const NAME: &str = "chroma_exporter";
