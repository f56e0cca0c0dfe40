"""Reports: what the views of the schema `reports` say, summed up and written in one of several forms."""
