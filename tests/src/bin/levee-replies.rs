//! `levee-replies`: stands in for `levee-dataplane replay` where captures are evaluated, and fails if what it answered is more than what
//! it held back.

use std::{
    env, io,
    path::PathBuf,
    process::{Command, ExitCode},
};

use levee_tests::capture::Size;

const USAGE: &str = "usage: levee-replies PROGRAM replay --outside-in FILE --inside-in FILE --inside-out FILE \
                     [--outside-out FILE] ...: runs it, then compares the captures";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let Some((program, rest)) = arguments.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match Command::new(program).args(rest).status() {
        Ok(status) if status.success() => {}
        Ok(status) => return ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("levee-replies: {program} cannot be run: {error}");
            return ExitCode::from(2);
        }
    }
    match compare(rest) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(excess)) => {
            eprintln!("levee-replies: {excess}");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("levee-replies: the captures cannot be compared: {error}");
            ExitCode::from(2)
        }
    }
}

/// What is wrong, if anything is. Learning writes nothing to outside.
fn compare(arguments: &[String]) -> io::Result<Option<String>> {
    let of = |name: &str| {
        let file = arguments.iter().skip_while(|argument| *argument != name).nth(1);
        file.map(|file| Size::of(&PathBuf::from(file))).transpose()
    };
    let (Some(came), Some(passed), Some(left)) = (of("--outside-in")?, of("--inside-out")?, of("--outside-out")?)
    else {
        return Ok(None);
    };
    let inside = of("--inside-in")?.unwrap_or_default();
    // What inside sends passes: the rest of what left is answers.
    let answers = (left.packets.saturating_sub(inside.packets), left.bytes.saturating_sub(inside.bytes));
    let held = (came.packets.saturating_sub(passed.packets), came.bytes.saturating_sub(passed.bytes));
    let excess = (left.packets < inside.packets, answers.0 > held.0 || answers.1 > held.1);
    Ok(match excess {
        (true, _) => Some(format!("{} packets came from inside and {} left", inside.packets, left.packets)),
        (_, true) => Some(format!(
            "{} packets ({} bytes) were answered and only {} ({} bytes) held back",
            answers.0, answers.1, held.0, held.1
        )),
        _ => None,
    })
}
