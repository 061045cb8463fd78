//! Cost of a match among routes that differ in a header field or a query parameter alone, and of explaining it.

use std::fmt::Write;
use std::time::Instant;

use anyhow::Result;

use crate::Options;
use crate::load::Plan;
use crate::report::median;
use crate::scale::beginning;
use crate::sluice::{Gateway, wait_for_status};

/// What tells the routes apart.
#[derive(Clone, Copy)]
enum By {
    Header,
    Query,
}

impl By {
    fn condition(self, route: usize) -> String {
        match self {
            Self::Header => format!("headers: [{{ name: x-tenant, exact: t{route} }}]"),
            Self::Query => format!("query: [{{ name: tenant, exact: t{route} }}]"),
        }
    }

    fn path(self, route: usize) -> String {
        match self {
            Self::Header => "/api".to_owned(),
            Self::Query => format!("/api?tenant=t{route}"),
        }
    }

    fn fields(self, route: usize) -> String {
        match self {
            Self::Header => format!("x-tenant: t{route}\r\n"),
            Self::Query => String::new(),
        }
    }

    fn question(self, route: usize) -> String {
        let headers = match self {
            Self::Header => format!(r#"[{{"name": "x-tenant", "value": "t{route}"}}]"#),
            Self::Query => "[]".to_owned(),
        };
        format!(r#"{{"method": "GET", "url": "http://h.example{}", "headers": {headers}}}"#, self.path(route))
    }
}

/// The rows of the table.
pub fn measure(options: &Options, upstream: u16) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    let mut base = None;
    for (by, name) in [(By::Header, "header field"), (By::Query, "query parameter")] {
        for routes in [10, 100_000] {
            let gateway = Gateway::start(&options.sluice)?;
            let mut file = beginning(gateway.traffic_port, upstream);
            for route in 0..routes {
                let condition = by.condition(route);
                let _ = writeln!(
                    file,
                    "  - {{ name: r{route}, hosts: [h.example], paths: [/api], {condition}, service: bench }}"
                );
            }
            gateway.apply(&file)?;
            wait_for_status(gateway.traffic_port, "h.example", "/missing", 404)?;
            let mut row = vec![format!("{routes} routes, {name}")];
            for (route, status) in [(0, 200), (routes - 1, 200), (routes, 404)] {
                let cpu_us = gateway.cpu_us(&plan(&gateway, by, route, status))?;
                let base = *base.get_or_insert(cpu_us);
                row.push(format!("{:.2} ({cpu_us:.2} us)", cpu_us / base));
            }
            row.push(format!("{:.2}", explain_ms(&gateway, &by.question(routes - 1))?));
            rows.push(row);
        }
    }
    Ok(rows)
}

fn plan(gateway: &Gateway, by: By, route: usize, expect_status: u16) -> Plan {
    Plan {
        port: gateway.traffic_port,
        host: "h.example".to_owned(),
        path: by.path(route),
        fields: by.fields(route),
        connections: 32,
        millis: 1500,
        rate: 0,
        expect_status,
    }
}

/// From the question to the answer of the API.
fn explain_ms(gateway: &Gateway, question: &str) -> Result<f64> {
    let mut admin = gateway.connect()?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let start = Instant::now();
        gateway.explain(&mut admin, question)?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(&times))
}
