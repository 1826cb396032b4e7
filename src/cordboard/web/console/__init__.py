"""`/console`: pages for the person on call. Server-rendered, without any script and nothing from elsewhere.

Numbers and PINs are masked on every page. To see them whole is a POST, which is on record in the audit log
before it is answered (storage/audit.py); no URL ever has a number in it.
"""
