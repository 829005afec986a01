fn main() {
    // A reader that goes away (`csmoe grid | head`) ends the program, as it ends any other, and not by a panic.
    #[cfg(unix)]
    // SAFETY: the first thing the process does; no handler of ours is replaced.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    std::process::exit(csmoe::cli::main());
}
