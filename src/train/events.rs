//! TensorBoard event files: length-framed records of the protocol buffer `Event`
//! (tensorflow/core/util/event.proto), scalars only.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

pub struct EventFile {
    out: BufWriter<File>,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The checksum of the record format: CRC-32C, rotated and offset.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes_field(out: &mut Vec<u8>, number: u8, data: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

/// Event { wall_time = 1, step = 2, ... }
fn event(step: u64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend_from_slice(&now().to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step);
    out
}

/// Summary { value = 1: Value { tag = 1, simple_value = 2 } }
fn summary(numbers: &[(String, f64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in numbers {
        let mut entry = Vec::new();
        bytes_field(&mut entry, 1, tag.as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend_from_slice(&(*value as f32).to_le_bytes());
        bytes_field(&mut out, 1, &entry);
    }
    out
}

impl EventFile {
    /// Starts a new file; TensorBoard joins the files of a folder by step.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn create(run: &Path, step: u64) -> Result<Self> {
        let file = run.join(format!("events.out.tfevents.{:010}.{}.csmoe", now() as u64, std::process::id()));
        let out = File::create(&file).with_context(|| format!("{} cannot be written", file.display()))?;
        let mut this = EventFile { out: BufWriter::new(out) };
        let mut first = event(step);
        bytes_field(&mut first, 3, b"brain.Event:2");
        this.record(&first)?;
        Ok(this)
    }

    /// Appends the scalars of a step.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, step: u64, numbers: &[(String, f64)]) -> Result<()> {
        let mut data = event(step);
        bytes_field(&mut data, 5, &summary(numbers));
        self.record(&data)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()];
        let written = parts.into_iter().try_for_each(|p| self.out.write_all(p)).and_then(|()| self.out.flush());
        written.context("the TensorBoard events cannot be written; is the disk full?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_format() {
        // CRC-32C of "123456789" is e3069283.
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
        let mut out = Vec::new();
        varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }

    #[test]
    fn records_are_framed() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 0).unwrap();
        file.append(7, &[("loss.total".into(), 1.5)]).unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(path).unwrap();
        let mut at = 0;
        let mut records = Vec::new();
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let data = &bytes[at + 12..at + 12 + length];
            let sum = u32::from_le_bytes(bytes[at + 12 + length..at + 16 + length].try_into().unwrap());
            assert_eq!(sum, masked_crc(data));
            records.push(data.to_vec());
            at += 16 + length;
        }
        assert_eq!(records.len(), 2);
        assert!(records[0].ends_with(b"brain.Event:2"));
        assert!(records[1].ends_with(&1.5f32.to_le_bytes()) && records[1].windows(10).any(|w| w == b"loss.total"));
    }
}
