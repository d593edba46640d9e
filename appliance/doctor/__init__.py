"""What this machine has of what a command needs: one line a check, with the fix."""
