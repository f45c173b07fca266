"""`python -m remotelr_service` is the command `remotelr`."""

from remotelr_service.cli.main import main

if __name__ == "__main__":
    main()
