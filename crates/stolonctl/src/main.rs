//! `stolonctl`

fn main() -> std::process::ExitCode {
    stolonctl::main()
}
