fn main() {
    std::process::exit(csmoe::cli::main());
}
