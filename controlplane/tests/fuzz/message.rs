//! Messages in parts: what is damaged in one is found by the reader, because the lengths around it are right, or lie by
//! themselves.

use super::chance::Chance;
use super::damage::{below, once, pick, some};

/// Bytes of a header.
const HEADER: usize = 19;

/// A message taken apart.
#[derive(Clone, Debug)]
enum Parts {
    /// What stands before the parameters, and the capabilities.
    Open(Vec<u8>, Vec<(u8, Vec<u8>)>),
    /// Withdrawn routes, attributes, routes.
    Update(Vec<u8>, Vec<Attribute>, Vec<u8>),
    Other(u8, Vec<u8>),
}

/// A path attribute.
#[derive(Clone, Debug)]
pub(crate) struct Attribute {
    flags: u8,
    code: u8,
    value: Vec<u8>,
}

/// One of the messages, damaged; its frame is right most of the time.
pub(crate) fn damaged(messages: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut parts = take_apart(pick(chance, messages).as_slice());
    let other = take_apart(pick(chance, messages).as_slice());
    for _ in 0..chance.between(1, 3) {
        damage(&mut parts, &other, chance);
    }
    let mut message = put_together(&parts, chance);
    if chance.percent(10) {
        let elsewhere = pick(chance, messages);
        once(&mut message, elsewhere, chance);
    }
    message
}

/// Of a message that is right.
fn take_apart(message: &[u8]) -> Parts {
    let body = &message[HEADER..];
    match message[HEADER - 1] {
        1 => {
            let mut capabilities = Vec::new();
            let mut rest = &body[12.min(body.len())..];
            while let [code, length, after @ ..] = rest {
                let (value, after) = after.split_at(usize::from(*length));
                capabilities.push((*code, value.to_vec()));
                rest = after;
            }
            Parts::Open(body[..9].to_vec(), capabilities)
        }
        2 => {
            let (withdrawn, rest) = counted(body);
            let (mut rest, routes) = counted(rest);
            let mut attributes = Vec::new();
            while let [flags, code, after @ ..] = rest {
                let (value, after) =
                    if flags & 0x10 != 0 { counted(after) } else { after[1..].split_at(usize::from(after[0])) };
                attributes.push(Attribute { flags: *flags, code: *code, value: value.to_vec() });
                rest = after;
            }
            Parts::Update(withdrawn.to_vec(), attributes, routes.to_vec())
        }
        kind => Parts::Other(kind, body.to_vec()),
    }
}

/// What two bytes say the length of, and what follows.
fn counted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    bytes[2..].split_at(length)
}

fn damage(parts: &mut Parts, other: &Parts, chance: &mut Chance) {
    match (parts, other) {
        (Parts::Open(fixed, capabilities), _) => match chance.between(0, 5) {
            0 => once(fixed, &[0; 9], chance),
            1 => capabilities.push((u8::try_from(chance.between(0, 255)).unwrap(), vec![7; below(chance, 5)])),
            2 if !capabilities.is_empty() => {
                let again = pick(chance, capabilities).clone();
                (0..chance.between(1, 40)).for_each(|_| capabilities.push(again.clone()));
            }
            _ if !capabilities.is_empty() => {
                let at = below(chance, capabilities.len());
                some(&mut capabilities[at].1, &[0, 1, 0, 133], chance);
            }
            _ => {}
        },
        (Parts::Update(withdrawn, attributes, routes), Parts::Update(other_withdrawn, others, other_routes)) => {
            match chance.between(0, 9) {
                0 => some(withdrawn, other_routes, chance),
                1 => some(routes, other_withdrawn, chance),
                2 if !others.is_empty() => attributes.push(pick(chance, others).clone()),
                // Said twice, which RFC 7606 has an answer to for each attribute.
                3 if !attributes.is_empty() => {
                    let again = pick(chance, attributes).clone();
                    attributes.push(again);
                }
                4 if !attributes.is_empty() => drop(attributes.remove(below(chance, attributes.len()))),
                5 if !attributes.is_empty() => {
                    let at = below(chance, attributes.len());
                    attributes[at].flags ^= 1 << below(chance, 8);
                }
                6 if !attributes.is_empty() => {
                    let at = below(chance, attributes.len());
                    attributes[at].code = u8::try_from(chance.between(0, 40)).unwrap();
                }
                _ if !attributes.is_empty() => {
                    let elsewhere = others.first().map_or(&[][..], |attribute| &attribute.value);
                    let at = below(chance, attributes.len());
                    some(&mut attributes[at].value, elsewhere, chance);
                }
                _ => {}
            }
        }
        (Parts::Update(withdrawn, _, routes), _) => {
            once(withdrawn, &[24, 192, 0, 2], chance);
            once(routes, &[24, 192, 0, 2], chance);
        }
        (Parts::Other(_, body), _) => some(body, &[6, 9, 6, 2], chance),
    }
}

fn put_together(parts: &Parts, chance: &mut Chance) -> Vec<u8> {
    let (kind, body) = match parts {
        Parts::Open(fixed, capabilities) => (1, open(fixed, capabilities, chance)),
        Parts::Update(withdrawn, attributes, routes) => (2, update(withdrawn, attributes, routes, chance)),
        Parts::Other(kind, body) => (*kind, body.clone()),
    };
    let mut message = vec![0xff; 16];
    message.extend(two(HEADER + body.len(), 2, chance));
    message.push(kind);
    message.extend(body);
    message
}

fn open(fixed: &[u8], capabilities: &[(u8, Vec<u8>)], chance: &mut Chance) -> Vec<u8> {
    let mut list = Vec::new();
    for (code, value) in capabilities {
        list.extend([*code, one(value.len(), chance)]);
        list.extend(value);
    }
    let mut body = fixed.to_vec();
    // What does not fit goes in the longer form (RFC 9072).
    if list.len() > 253 || chance.percent(10) {
        body.extend([255, 255]);
        body.extend(two(list.len() + 3, 3, chance));
        body.push(2);
        body.extend(two(list.len(), 3, chance));
    } else {
        body.extend([one(list.len() + 2, chance), 2, one(list.len(), chance)]);
    }
    body.extend(list);
    body
}

fn update(withdrawn: &[u8], attributes: &[Attribute], routes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut list = Vec::new();
    for Attribute { flags, code, value } in attributes {
        list.extend([*flags, *code]);
        if flags & 0x10 != 0 {
            list.extend(two(value.len(), 2, chance));
        } else {
            list.push(one(value.len(), chance));
        }
        list.extend(value);
    }
    let mut body = two(withdrawn.len(), 2, chance).to_vec();
    body.extend(withdrawn);
    body.extend(two(list.len(), 2, chance));
    body.extend(list);
    body.extend(routes);
    body
}

/// A length of one byte, which seldom lies.
fn one(length: usize, chance: &mut Chance) -> u8 {
    let length = u8::try_from(length).unwrap_or(u8::MAX);
    if chance.percent(3) { length.wrapping_add(u8::try_from(chance.between(0, 255)).unwrap()) } else { length }
}

/// A length of two bytes, which lies so many times in a hundred.
fn two(length: usize, percent: u64, chance: &mut Chance) -> [u8; 2] {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    let lie = if chance.percent(percent) { u16::try_from(chance.between(0, 65_535)).unwrap() } else { 0 };
    length.wrapping_add(lie).to_be_bytes()
}
