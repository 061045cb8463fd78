//! HTTP/2 with clients, frame by frame (RFC 9113), and what runs on it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod downgrade;
mod floods;
mod frames;
mod grpc;
mod grpc_routes;
mod grpc_web;
mod interim;
mod poisoning;
mod semantics;
mod strict;
#[path = "../support/mod.rs"]
mod support;
mod websocket;
