"""Does what is stored agree with the commit log? `zcollection_engine.verification.verifying.verify` tells."""
