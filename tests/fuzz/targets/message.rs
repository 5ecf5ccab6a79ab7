//! Pomelo's messages, on a connection that has finished its handshake and has a dictionary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::time::Duration;
use wire::{Codec, Dictionary, WireFormat};

static DICTIONARY: LazyLock<Dictionary> =
    LazyLock::new(|| Dictionary::new(vec!["chat.handler.join".to_owned()]).expect("routes"));

fuzz_target!(|message: &[u8]| {
    let format = WireFormat::POMELO.with_dictionary(Some(&DICTIONARY));
    let mut codec = Codec::new(format, Duration::from_secs(25));
    let mut greeting = package(1, br#"{"sys":{}}"#);
    greeting.extend(package(2, b""));
    let greeted = codec.decode(&greeting, &mut Vec::new(), &mut Vec::new());
    assert_eq!(greeted, Ok(()));
    let (mut inputs, mut out) = (Vec::new(), Vec::new());
    let _ = codec.decode(&package(4, message), &mut inputs, &mut out);
    assert!(inputs.len() <= 1);
});

fn package(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("few bytes").to_be_bytes();
    let mut package = vec![kind];
    package.extend_from_slice(&length[1..]);
    package.extend_from_slice(body);
    package
}
