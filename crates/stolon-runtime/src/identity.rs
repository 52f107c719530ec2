//! Random identities.

/// Eight random hex digits: the uid of a process, a document or a publication.
pub fn new_uid8() -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    text.truncate(8);
    text
}

/// A random UUID in its form of 36 characters: one run of a keeper.
pub fn new_boot_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
