//! Ports that are taken: all of them at once, with their holders, before anything is started.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use anyhow::bail;
use data_plane::port_holder::port_holder;

/// Tries to bind each address, next to what chooses another one.
pub fn check(wanted: &[(&str, SocketAddr)]) -> anyhow::Result<()> {
    let faults: Vec<String> = wanted
        .iter()
        .filter_map(|(chosen_by, address)| match TcpListener::bind(address) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let holder = match port_holder(*address) {
                    Some(holder) => format!("taken by {holder}"),
                    None => "taken by another process".to_owned(),
                };
                Some(format!("{address} is {holder}: end it, or choose another address with {chosen_by}"))
            }
            Err(error) => Some(format!("{address} cannot be opened: {error}; choose another with {chosen_by}")),
        })
        .collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_taken_port_is_named_with_its_holder() {
        let taken: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = taken.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let error = check(&[("--admin", addresses[0]), ("--node", addresses[1])]).unwrap_err().to_string();
        for (flag, address) in [("--admin", addresses[0]), ("--node", addresses[1])] {
            let line = error.lines().find(|line| line.starts_with(&address.to_string())).unwrap();
            assert!(line.contains(&format!("(process {})", std::process::id())), "{line}");
            assert!(line.ends_with(flag), "{line}");
        }
    }

    #[test]
    fn free_ports_are_fine() {
        check(&[("--admin", "127.0.0.1:0".parse().unwrap())]).unwrap();
    }
}
