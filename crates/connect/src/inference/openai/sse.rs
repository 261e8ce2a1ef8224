//! Server-sent events, as far as inference servers use them: the data of each event.

/// Bytes of an event at most: more is no token but a mistake.
const EVENT_MAX: usize = 16 * 1024 * 1024;

/// Takes bytes as they come and gives the events that are whole.
#[derive(Default)]
pub(super) struct Parser {
    /// The line that has begun.
    line: Vec<u8>,
    /// The data lines of the event that has begun.
    data: Option<Vec<u8>>,
    /// The byte before was a carriage return, which may be half of a line's end.
    after_return: bool,
}

impl Parser {
    /// # Errors
    /// An event is too large.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    events.extend(self.end_of_line());
                }
                byte => {
                    self.after_return = false;
                    self.line.push(*byte);
                }
            }
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > EVENT_MAX {
                return Err(format!("an event of more than {EVENT_MAX} bytes"));
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        let rest = line.strip_prefix(b"data:")?;
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        match &mut self.data {
            None => self.data = Some(rest.to_vec()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(rest);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_bytes_are_cut() {
        let text = "\u{feff}: hello\r\nevent: x\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n\
                    data:b\n\n: ping\n\nid: 3\ndata: \n\rdata: [DONE]\r\rdata: cut";
        let expected = ["{\"a\":\n1}", "b", "", "[DONE]"];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                found.extend(parser.push(piece).expect("events"));
            }
            let found: Vec<_> = found
                .iter()
                .map(|event| std::str::from_utf8(event).expect("text"))
                .collect();
            assert_eq!(found, expected, "pieces of {size} bytes");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; EVENT_MAX];
        assert!(parser.push(&piece).is_ok());
        assert!(parser.push(b"y").is_err());
    }
}
