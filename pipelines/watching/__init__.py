"""What people see of a build while it runs and when it ends."""
