"""The operator's command line, one file per noun. It calls a service over HTTP and opens no database."""
