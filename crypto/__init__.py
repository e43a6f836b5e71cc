"""Bytes and numbers: identities, sealing, key derivation, secret sharing, mask streams, randomness.

This room knows no protocol and no machine learning. Everything here is a thin, labelled use of the `cryptography`
package, or arithmetic that we write ourselves and pin with published vectors (`tests/crypto`).
"""
