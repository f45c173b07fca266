"""What an operator types: one file for each noun. All of it asks a service over HTTP; none of it has a database."""
