from lightning_cifar.cli import main

raise SystemExit(main())
