"""Bytes and numbers: identities, sealing, key derivation, secret sharing, mask streams, randomness.

This room contains no protocol and no machine learning. Everything here is a thin, labelled use of the `cryptography`
package, or our own arithmetic, checked against published vectors (`tests/crypto`).
"""
