//! Tape archives of plain files, in the POSIX format `ustar`. Nothing but files with short names and their contents is written
//! or read: no folders, links, devices, owners or extensions.

use std::io::{Read, Write};

use millstream_engine::{Fault, Result};

use super::version::check_name;

const BLOCK_BYTES: usize = 512;
const NAME_BYTES: usize = 100;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..263;
const PREFIX: std::ops::Range<usize> = 345..500;

/// The largest size that eleven octal digits say.
const SIZE_MAX: u64 = (1 << 33) - 1;

/// Writes an archive of these files. The same files give the same bytes.
pub(super) fn write(to: &mut impl Write, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    for (name, content) in files {
        if name.len() > NAME_BYTES || content.len() as u64 > SIZE_MAX {
            return Err(std::io::Error::other(format!("{name} does not fit into an archive")));
        }
        let mut header = [0; BLOCK_BYTES];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(SIZE.start, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(KIND, "0");
        put(MAGIC.start, "ustar\0");
        put(MAGIC.end, "00");
        let sum = checksum(&header);
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        to.write_all(&header)?;
        to.write_all(content)?;
        to.write_all(&[0; BLOCK_BYTES][..padding(content.len() as u64)])?;
    }
    to.write_all(&[0; 2 * BLOCK_BYTES])
}

fn padding(bytes: u64) -> usize {
    (BLOCK_BYTES - (bytes % BLOCK_BYTES as u64) as usize) % BLOCK_BYTES
}

/// The sum of a header's bytes, those of the sum itself taken as blanks.
fn checksum(header: &[u8; BLOCK_BYTES]) -> u32 {
    let bytes = header.iter().enumerate().map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
    bytes.map(u32::from).sum()
}

/// Reads an archive: `take` gets each file's name and size, and what to read its content from.
pub(super) fn read(from: &mut impl Read, mut take: impl FnMut(&str, u64, &mut dyn Read) -> Result<()>) -> Result<()> {
    let broken = |why: &str| Fault::definition(format!("this is no archive of a version: {why}"));
    let short = |error: std::io::Error| broken("it is cut short").because(error);
    loop {
        let mut header = [0; BLOCK_BYTES];
        from.read_exact(&mut header).map_err(short)?;
        if header == [0; BLOCK_BYTES] {
            break;
        }
        let sum = octal(&header[CHECKSUM]).ok_or_else(|| broken("a header has no checksum"))?;
        if sum != u64::from(checksum(&header)) {
            return Err(broken("a header is damaged"));
        }
        let name = header[..NAME_BYTES].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| broken("a name is not UTF-8"))?;
        if !matches!(header[KIND], b'0' | 0) || name.ends_with('/') {
            let message =
                format!("`{name}` is no plain file; pack the files of the version alone, without their folder");
            return Err(broken(&message));
        }
        if header[MAGIC].starts_with(b"ustar") && header[PREFIX][0] != 0 {
            return Err(broken(&format!("`{name}` lies in a folder; pack the files alone")));
        }
        check_name("file", name)?;
        let size = octal(&header[SIZE]).ok_or_else(|| broken(&format!("`{name}` has no size")))?;
        let mut content = Read::take(&mut *from, size);
        take(name, size, &mut content)?;
        if content.limit() > 0 {
            return Err(broken("it is cut short"));
        }
        from.read_exact(&mut [0; BLOCK_BYTES][..padding(size)]).map_err(short)?;
    }
    Ok(())
}

/// A number in octal digits, with blanks before and a blank or zero after.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}
