"""The demonstration: an embedded S3 and SQS, synthetic granules, the real daemon, a report.

Nothing outside this package imports it, except the command line.
"""
