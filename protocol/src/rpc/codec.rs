//! Sans-IO framing of Hadoop IPC: preamble, request and response frames.
