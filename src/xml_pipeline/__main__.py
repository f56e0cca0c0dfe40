"""`python -m xml_pipeline` is `organism`."""

from xml_pipeline.cli import main

if __name__ == "__main__":
    main()
