#![expect(missing_docs, reason = "a test")]
