"""What host and device of Wherry agree on; it imports nothing else of ours.

The normative text is in SPEC-bundle.md, SPEC-mqtt.md and SPEC-drift.md beside this
package, the golden files for another implementation in `vectors/`.
"""

CONTRACT_VERSION = 1
