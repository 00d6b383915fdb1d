// SPDX-License-Identifier: GPL-2.0

//! The original form of the command line, word for word:
//!
//! ```text
//! dst -n storage -A alg_linear -f /dev/dst -a kano -p 1025
//! ```

use clap::Args;
use dst_core::uapi::NBD_PORT;

use crate::cli::{
    alg,
    name, //
};
use crate::error::{
    usage,
    Result, //
};
use crate::operation::{
    Add,
    Export,
    NodeName,
    NodeOptions,
    Operation,
    Start,
    Targets,
    Which, //
};
use crate::size;
use crate::uri::{
    parse_disk,
    parse_port,
    parse_remote,
    Node,
    Remote, //
};

/// Options of the original form.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "The original form")]
pub struct Original {
    /// Name of the storage, or of the export
    #[arg(short = 'n', value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// alg_linear (the default): the nodes one behind the other; alg_mirror: a copy of all data on each
    #[arg(short = 'A', value_name = "ALG", value_parser = alg)]
    pub alg: Option<String>,
    /// Add a remote node: its address, or an NBD URI; with -d the address to listen on
    #[arg(short = 'a', value_name = "ADDR")]
    pub address: Option<String>,
    /// TCP port of -a [default: 10809]
    #[arg(short = 'p', value_name = "PORT", value_parser = parse_port)]
    pub port: Option<u16>,
    /// Add a local disk; with -a: export it
    #[arg(short = 'd', value_name = "DISK", value_hint = clap::ValueHint::AnyPath, value_parser = parse_disk)]
    pub disk: Option<String>,
    /// Connections to the export that may wait to be accepted [default: 16]
    #[arg(short = 'b', value_name = "BACKLOG", value_parser = clap::value_parser!(u32).range(1..))]
    pub backlog: Option<u32>,
    /// Where the node begins in the storage [default: behind the node added last]
    #[arg(short = 's', value_name = "START", value_parser = size::parse_start)]
    pub start: Option<u64>,
    /// How much of the node is used [default: all]
    #[arg(short = 'S', value_name = "SIZE", value_parser = size::parse_size)]
    pub size: Option<u64>,
    /// Start the storage, after the node was added if one is named
    #[arg(short = 'R')]
    pub run: bool,
    /// Delete the storage; if there is none of that name, end the export
    #[arg(short = 'D')]
    pub delete: bool,
    /// Remove the node that -a, -p, -d, -s name
    #[arg(short = 'r')]
    pub remove: bool,
}

impl Original {
    /// The operations that the options come down to.
    pub fn operations(self) -> Result<Vec<Operation>> {
        let Some(name) = self.name.clone() else {
            return usage("the name is missing; '-n NAME' says which storage or export is meant");
        };
        let address = self.remote()?;
        if self.delete {
            return self.deletion(name);
        }
        if self.remove {
            return self.removal(name, address);
        }
        if let (Some(listen), Some(disk)) = (&address, &self.disk) {
            return self.export(name, listen.clone(), disk.clone());
        }
        if self.backlog.is_some() {
            return usage(
                "'-b' belongs to an export, which has a disk and an address: -d DISK -a ADDR",
            );
        }
        let node = match (address, self.disk) {
            (Some(remote), _) => Some(Node::Remote(remote)),
            (None, Some(disk)) => Some(Node::Local(disk)),
            (None, None) => None,
        };
        let mut operations = Vec::new();
        if let Some(node) = node {
            operations.push(Operation::Add(Add {
                name: name.clone(),
                alg: self.alg,
                metadata: false,
                nodes: vec![node],
                start: self.start,
                size: self.size,
                options: NodeOptions::default(),
                force: false,
                discard: false,
            }));
        } else if self.start.is_some() || self.size.is_some() {
            return usage(
                "'-s' and '-S' place a node; name it with '-a ADDR -p PORT' or '-d DISK'",
            );
        }
        if self.run {
            operations.push(Operation::Start(Start {
                name,
                degraded: false,
            }));
        }
        if operations.is_empty() {
            return usage(
                "nothing to do; add a node with '-a ADDR -p PORT' or '-d DISK', start with '-R', \
                 delete with '-D'",
            );
        }
        Ok(operations)
    }

    /// The server that -a and -p name.
    fn remote(&self) -> Result<Option<Remote>> {
        let Some(text) = &self.address else {
            return match self.port {
                None => Ok(None),
                Some(port) => usage(format!("'-p {port}' needs an address, '-a ADDR'")),
            };
        };
        let wrong =
            |error: String| usage(format!("invalid value '{text}' for '-a <ADDR>': {error}"));
        let has_port = text.contains("://") || text.starts_with('[');
        // A bare IPv6 address, as -p has the port.
        let bare = !has_port && text.matches(':').count() > 1 && !text.contains('/');
        let mut remote = match bare {
            true => Remote {
                host: text.clone(),
                port: NBD_PORT,
                export: String::new(),
            },
            false => match parse_remote(text) {
                Ok(remote) => remote,
                Err(error) => return wrong(error),
            },
        };
        if let Some(port) = self.port {
            if remote.port != NBD_PORT && remote.port != port {
                return wrong(format!("it has a port, and '-p {port}' names another one"));
            }
            remote.port = port;
        }
        Ok(Some(remote))
    }

    /// `-D`.
    fn deletion(&self, name: String) -> Result<Vec<Operation>> {
        for (given, option) in [
            (self.run, "-R"),
            (self.remove, "-r"),
            (self.start.is_some(), "-s"),
            (self.size.is_some(), "-S"),
        ] {
            if given {
                return usage(format!("'-D' and '{option}' can't be used together"));
            }
        }
        if self.disk.is_some() && self.address.is_some() {
            return Ok(vec![Operation::Unexport(Targets::Names(vec![name]))]);
        }
        if self.disk.is_some() || self.address.is_some() {
            return usage("'-D' deletes the whole storage; '-r' removes one node");
        }
        Ok(vec![Operation::DeleteEither(name)])
    }

    /// `-r`.
    fn removal(&self, name: String, address: Option<Remote>) -> Result<Vec<Operation>> {
        let node = match (address, &self.disk) {
            (Some(_), Some(_)) => {
                return usage("'-r' removes one node: either '-a ADDR -p PORT' or '-d DISK'")
            }
            (Some(remote), None) => Some(NodeName::Node(Node::Remote(remote))),
            (None, Some(disk)) => Some(NodeName::Node(Node::Local(disk.clone()))),
            (None, None) => None,
        };
        if node.is_none() && self.start.is_none() {
            return usage("'-r' needs the node: '-a ADDR -p PORT', '-d DISK' or '-s START'");
        }
        for (given, option) in [(self.run, "-R"), (self.backlog.is_some(), "-b")] {
            if given {
                return usage(format!("'-r' and '{option}' can't be used together"));
            }
        }
        Ok(vec![Operation::Remove {
            name,
            which: Which::One {
                node,
                start: self.start,
            },
        }])
    }

    /// `-d` with `-a`.
    fn export(&self, name: String, listen: Remote, disk: String) -> Result<Vec<Operation>> {
        for (given, option) in [
            (self.run, "-R"),
            (self.start.is_some(), "-s"),
            (self.size.is_some(), "-S"),
        ] {
            if given {
                return usage(format!(
                    "'{option}' belongs to a storage; a disk with an address (-d and -a) is exported"
                ));
            }
        }
        if !listen.export.is_empty() {
            return usage("the name of an export is given with '-n', its address with '-a' alone");
        }
        Ok(vec![Operation::Export(Export {
            name,
            disk,
            listen,
            read_only: false,
            allow: Vec::new(),
            max_connections: 0,
            backlog: self.backlog.unwrap_or(0),
        })])
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    /// Reads a command line of the original form.
    fn read(line: &str) -> Result<Vec<Operation>> {
        let cli = Cli::try_parse_from(line.split_whitespace())
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(cli.command.is_none());
        assert_eq!(cli.control.to_str(), Some("/dev/dst"));
        cli.original.operations()
    }

    fn remote(host: &str, port: u16) -> Remote {
        Remote {
            host: host.into(),
            port,
            export: String::new(),
        }
    }

    fn add(node: Node) -> Add {
        Add {
            name: "storage".into(),
            metadata: false,
            alg: Some("alg_linear".into()),
            nodes: vec![node],
            start: None,
            size: None,
            options: NodeOptions::default(),
            force: false,
            discard: false,
        }
    }

    #[test]
    fn word_for_word() {
        let kano = Node::Remote(remote("kano", 1025));
        let disk = Node::Local("/dev/sdb".into());
        let start = Operation::Start(Start {
            name: "storage".into(),
            degraded: false,
        });
        let export = |backlog| {
            Operation::Export(Export {
                name: "storage".into(),
                disk: "/dev/sdb".into(),
                listen: remote("0.0.0.0", 1025),
                read_only: false,
                allow: vec![],
                max_connections: 0,
                backlog,
            })
        };
        for (rest, operations) in [
            ("-a kano -p 1025", vec![Operation::Add(add(kano.clone()))]),
            ("-d /dev/sdb", vec![Operation::Add(add(disk.clone()))]),
            (
                "-a via -p 1025 -R",
                vec![
                    Operation::Add(add(Node::Remote(remote("via", 1025)))),
                    start.clone(),
                ],
            ),
            ("-R", vec![start]),
            ("-d /dev/sdb -a 0.0.0.0 -p 1025 -b 16", vec![export(16)]),
            ("-d /dev/sdb -a 0.0.0.0 -p 1025", vec![export(0)]),
            ("-D", vec![Operation::DeleteEither("storage".into())]),
            (
                "-d /dev/sdb -a 0.0.0.0 -p 1025 -D",
                vec![Operation::Unexport(Targets::Names(vec!["storage".into()]))],
            ),
            (
                "-a kano -p 1025 -s 800 -S 1600",
                vec![Operation::Add(Add {
                    start: Some(800),
                    size: Some(1600),
                    ..add(kano.clone())
                })],
            ),
            (
                "-a kano -p 1025 -r",
                vec![Operation::Remove {
                    name: "storage".into(),
                    which: Which::One {
                        node: Some(NodeName::Node(kano)),
                        start: None,
                    },
                }],
            ),
            (
                "-d /dev/sdb -s 800 -r",
                vec![Operation::Remove {
                    name: "storage".into(),
                    which: Which::One {
                        node: Some(NodeName::Node(disk)),
                        start: Some(800),
                    },
                }],
            ),
            (
                "-r -s 0",
                vec![Operation::Remove {
                    name: "storage".into(),
                    which: Which::One {
                        node: None,
                        start: Some(0),
                    },
                }],
            ),
        ] {
            let line = format!("dst -n storage -A alg_linear -f /dev/dst {rest}");
            assert_eq!(read(&line).unwrap(), operations, "{line}");
        }
    }

    #[test]
    fn addresses() {
        for (text, node) in [
            ("-a kano", remote("kano", 10809)),
            ("-a ::1 -p 1025", remote("::1", 1025)),
            ("-a fe80::1%eth0 -p 1025", remote("fe80::1%eth0", 1025)),
            ("-a [::1] -p 1025", remote("::1", 1025)),
            ("-a nbd://kano:1025", remote("kano", 1025)),
            ("-a nbd://kano -p 1025", remote("kano", 1025)),
            ("-a kano:1025", remote("kano", 1025)),
        ] {
            let operations = read(&format!("dst -n storage -A alg_linear {text}")).unwrap();
            assert_eq!(
                operations,
                [Operation::Add(add(Node::Remote(node)))],
                "{text}"
            );
        }
    }

    #[test]
    fn wrong() {
        for (rest, part) in [
            ("-R", "'-n NAME'"),
            ("-n x", "nothing to do"),
            ("-n x -p 1025", "'-p 1025' needs an address"),
            ("-n x -b 16 -a kano", "'-b' belongs to an export"),
            ("-n x -s 0 -R", "'-s' and '-S' place a node"),
            ("-n x -a nbds://kano", "TLS is not supported yet"),
            ("-n x -a kano:1025 -p 1026", "names another one"),
            ("-n x -D -R", "'-D' and '-R'"),
            ("-n x -D -d /dev/sdb", "'-r' removes one node"),
            ("-n x -r", "'-r' needs the node"),
            ("-n x -r -R -s 0", "'-r' and '-R'"),
            ("-n x -r -a kano -d /dev/sdb", "either"),
            (
                "-n x -a 0.0.0.0 -d /dev/sdb -R",
                "'-R' belongs to a storage",
            ),
            ("-n x -a nbd://kano/y -d /dev/sdb", "given with '-n'"),
        ] {
            let error = read(&format!("dst {rest}")).unwrap_err();
            assert_eq!(error.status(), 2, "{rest}");
            assert!(error.to_string().contains(part), "{rest}: {error}");
        }
    }
}
