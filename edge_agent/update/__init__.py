"""Update the device: trust, fetch, stage, self-test, switch. Import its modules one by one; this file stays empty."""
