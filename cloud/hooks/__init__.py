"""Hooks: programs and addresses that are told what happens, or asked before a rollout goes on."""
