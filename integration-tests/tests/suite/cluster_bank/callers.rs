//! Which process a connection on this machine comes from: `/proc/net/tcp` names its socket, the process has it open.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// The kernel gives its table out in pieces: sockets that come and go meanwhile can hide another one.
const READS_MAX: usize = 5;

/// Whether the socket at this local address belongs to one of the processes.
pub(super) fn is_one_of(processes: &[u32], from: SocketAddr) -> std::io::Result<bool> {
    let IpAddr::V4(ip) = from.ip() else { return Ok(false) };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), from.port());
    let mut socket = None;
    for _ in 0..READS_MAX {
        let table = fs::read_to_string("/proc/net/tcp")?;
        // NUMBER: LOCAL REMOTE STATE QUEUES TIMER RETRIES USER TIMEOUT SOCKET …
        socket = table.lines().find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            (fields.next()? == local).then(|| fields.nth(7).map(str::to_owned))?
        });
        if socket.is_some() {
            break;
        }
    }
    let Some(socket) = socket else { return Ok(false) };
    let name = format!("socket:[{socket}]");
    Ok(processes.iter().any(|process| {
        let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        open.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy() == name))
    }))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_there, from) = listener.accept().unwrap();
        assert!(is_one_of(&[std::process::id()], from).unwrap());
        assert!(!is_one_of(&[1], from).unwrap());
        assert!(!is_one_of(&[], from).unwrap());
    }
}
