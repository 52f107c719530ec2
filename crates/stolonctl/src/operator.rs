//! Who gives a command.

/// `user@host`; behind sudo `user as root@host`. Parts that the system does not tell are question marks.
pub fn name() -> String {
    let unknown = || "?".to_owned();
    let user = uzers::get_current_username().map_or_else(unknown, |name| name.to_string_lossy().into_owned());
    let person = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty() && *name != user);
    let person = person.map_or_else(|| user.clone(), |person| format!("{person} as {user}"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{person}@{host}")
}
