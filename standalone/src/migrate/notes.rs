//! What has no counterpart, for stderr and for comments in the files.

/// One line for each thing, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Note>);

#[derive(Debug)]
struct Note {
    text: String,
    of_connectors: bool,
    of_chats: bool,
}

impl Notes {
    pub(super) fn for_connectors(&mut self, text: &str) {
        self.add(text, true, false);
    }

    pub(super) fn for_chats(&mut self, text: &str) {
        self.add(text, false, true);
    }

    pub(super) fn for_both(&mut self, text: &str) {
        self.add(text, true, true);
    }

    fn add(&mut self, text: &str, of_connectors: bool, of_chats: bool) {
        self.0.push(Note {
            text: one_line(text),
            of_connectors,
            of_chats,
        });
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|note| note.text.as_str())
    }

    pub(super) fn of_connectors(&self) -> impl Iterator<Item = &str> {
        let notes = self.0.iter().filter(|note| note.of_connectors);
        notes.map(|note| note.text.as_str())
    }

    pub(super) fn of_chats(&self) -> impl Iterator<Item = &str> {
        let notes = self.0.iter().filter(|note| note.of_chats);
        notes.map(|note| note.text.as_str())
    }
}

/// The names in the files of a project may hold anything. A comment that goes on in the next line would be a setting.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for letter in text.chars() {
        match letter.is_control() {
            true => line.extend(letter.escape_default()),
            false => line.push(letter),
        }
    }
    line
}
